-- What update.lua does to a record: from index, arguments, name, order, sort; its answer is `answer`.
local found, state, answer = $LOAD, nil, nil
if found then
  local format, at = nil, nil
  if #found >= 25 then format, at = unpack('>BI8', found) end
  if format ~= 1 or at > 9007199254740991 then
    answer = {3}
  elseif at == 0 or at > now then
    state = sub(found, 26)
  end
end
if not answer then
  local action, output, new_state, ttl_us = apply(state, now, arguments)
  answer = output
  if action == 'put' then
    local at, life = 0, nil
    if ttl_us then
      at = now + ttl_us
      if ttl_us ~= px_of then
        px_of, px = ttl_us, string.format('%.0f', math.ceil(ttl_us / 1000) + $GRACE_MS)
      end
      life = px
    end
    if ttl_us and (ttl_us < 1 or at > 9007199254740991) then
      answer = {2}
    else
      local record = pack('>BI8c14I2c0', 1, at, version, index, new_state)
      $PUT
    end
  elseif action == 'delete' then
    $REMOVE
  elseif action == 'undecodable' then
    answer = {3}
  end
end
