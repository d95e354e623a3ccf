-- Asks for a lease: the twin of procedure.rs. Every number is an integer below 2^53, where a double is exact.
local FORMAT, LAST_TIME = 1, 9007199254740991
local NOBODY = string.rep('\0', 16)

local function answer(tag, token, left)
  return struct.pack('>BI8I8', tag, token, left)
end

local ask, wanted, hold, keep = string.byte(arguments), struct.unpack('>I8I8I8', arguments, 18)
local holder = string.sub(arguments, 2, 17)
local token, owner, deadline = 0, NOBODY, 0
if state then
  if #state ~= 33 then return 'undecodable', 'state' end
  local format
  format, token = struct.unpack('>BI8', state)
  owner = string.sub(state, 10, 25)
  deadline = struct.unpack('>I8', state, 26)
  if format ~= FORMAT or token > LAST_TIME or deadline > LAST_TIME then return 'undecodable', 'state' end
end
local function put(new_token, new_owner, new_deadline, output)
  local ttl = nil
  if new_deadline <= LAST_TIME - keep then ttl = new_deadline + keep - now end
  return 'put', output, struct.pack('>BI8', FORMAT, new_token) .. new_owner .. struct.pack('>I8', new_deadline), ttl
end
local live = state and owner ~= NOBODY and now < deadline
local till = LAST_TIME
if now <= LAST_TIME - hold then till = now + hold end
if ask == 0 then
  if live and owner == holder then return put(token, owner, math.max(deadline, till), answer(0, token, 0)) end
  if live then return 'keep', answer(1, token, deadline - now) end
  local new_token = math.min(math.max(token + 1, now), LAST_TIME)
  return put(new_token, holder, till, answer(0, new_token, 0))
end
if not state then return 'keep', answer(2, 0, 0) end
if token ~= wanted then return 'keep', answer(4, token, 0) end
if owner == NOBODY then return 'keep', answer(3, 0, 0) end
if not live then return 'keep', answer(2, 0, 0) end
if ask == 1 then return put(token, owner, math.max(deadline, till), answer(0, token, 0)) end
return put(token, NOBODY, now, answer(3, 0, 0))
