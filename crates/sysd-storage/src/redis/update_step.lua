-- What update.lua does to a record: from index, arguments, name, order, sort; its answer is `answer`.
local found, state, answer, at = $LOAD, nil, nil, 0
if found then
  local format = nil
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
    -- What was there is dropped when what comes may be, as a rule, and its deadline is kept: to set one costs as much again.
    local was_reclaimed_at = found and (at ~= 0 and $RECLAIMED_AT or 0)
    at = ttl_us and now + ttl_us or 0
    if ttl_us and (ttl_us < 1 or at > 9007199254740991) then
      answer = {2}
    else
      local record = pack('>BI8c14I2c0', 1, at, version, index, new_state)
      local reclaimed_at, life = at ~= 0 and $RECLAIMED_AT or 0, nil
      if reclaimed_at == was_reclaimed_at then
        $PUT_KEPT
      else
        if at ~= 0 and reclaimed_at ~= life_of then
          life_of, life_text = reclaimed_at, string.format('%.0f', math.ceil((reclaimed_at - now) / 1000))
        end
        life = at ~= 0 and life_text
        $PUT
      end
    end
  elseif action == 'delete' then
    $REMOVE
  elseif action == 'undecodable' then
    answer = {3}
  end
end
