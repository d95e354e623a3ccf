-- The Lua twin of Tally. Arguments: operation, 1 if a time to live follows, time to live (8 bytes), the rest.
-- Output: 1 if there was a state, now (8 bytes), the state.
local MAX = 9007199254740991
local operation = string.byte(arguments, 1)
local ttl = nil
if string.byte(arguments, 2) == 1 then ttl = struct.unpack('>I8', string.sub(arguments, 3, 10)) end
local rest = string.sub(arguments, 11)
local output = string.char(state and 1 or 0) .. struct.pack('>I8', now) .. (state or '')
if operation == 0 then return 'keep', output end
if operation == 1 then return 'delete', output end
if operation == 2 then return 'put', output, rest, ttl end
local sum = 0
if state and #state > 0 then
  if #state ~= 8 then return 'undecodable', 'state' end
  sum = struct.unpack('>I8', state)
  if sum < 0 or sum > MAX then return 'undecodable', 'state' end
end
sum = sum + struct.unpack('>I8', rest)
if sum > MAX then sum = MAX end
return 'put', output, struct.pack('>I8', sum), ttl
