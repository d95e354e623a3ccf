-- What update.lua does to a record: from index, arguments, name, order, sort; its answer is `answer`.
local found, state, answer, found_at = $LOAD, nil, nil, 0
if found then
  local format, at = nil, nil
  if #found >= 25 then format, at = unpack('>BI8', found) end
  if format ~= 1 or at > 9007199254740991 then
    answer = {3}
  else
    found_at = at
    if at == 0 or at > now then state = sub(found, 26) end
  end
end
if not answer then
  local action, output, new_state, ttl_us = apply(state, now, arguments)
  answer = output
  if action == 'put' then
    local at = ttl_us and now + ttl_us or 0
    if ttl_us and (ttl_us < 1 or at > 9007199254740991) then
      answer = {2}
    else
      local record, life = pack('>BI8c14I2c0', 1, at, version, index, new_state), nil
      -- A deadline that an update of this grain of time set, for an expiry in the same grain as this one's, is one to three grains
      -- behind it, and stays. To set it anew costs as much as half a SET.
      local is_near = at ~= 0 and found_at ~= 0 and at - at % $GRAIN == found_at - found_at % $GRAIN
      if $KEEPS and is_near and sub(found, 22, 23) == made_in then
        $PUT_KEPT
      else
        if ttl_us and ttl_us ~= life_of then
          life_of, life_text = ttl_us, string.format('%.0f', math.ceil((ttl_us + 2 * $GRAIN) / 1000))
        end
        life = ttl_us and life_text
        $PUT
      end
    end
  elseif action == 'delete' then
    $REMOVE
  elseif action == 'undecodable' then
    answer = {3}
  end
end
