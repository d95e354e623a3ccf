-- ARGV: now, how many live rows to keep, how many to remove at most, '' (keep the first) or 'rev' (keep the last).
-- Answers {removed, 1 if more}. A corrupt row is neither counted nor removed where rows are kept.
local now = $NOW
local keep, budget = tonumber(ARGV[2]), tonumber(ARGV[3])
local command = ARGV[4] == 'rev' and 'ZREVRANGE' or 'ZRANGE'
local kept, removed, from = 0, 0, 0
while true do
  local sorts = redis.call(command, KEYS[2], from, from + 99)
  for _, sort in ipairs(sorts) do
    local is_kept = false
    if kept < keep then
      local record = $LOAD
      if record then
        local format, at = 0, 0
        if #record >= 25 then format, at = struct.unpack('>BI8', record) end
        if format ~= 1 then
          is_kept = true
        elseif at == 0 or at > now then
          is_kept = true
          kept = kept + 1
        end
      end
    end
    if is_kept then
      from = from + 1
    else
      if removed == budget then return {removed, 1} end
      $REMOVE
      removed = removed + 1
    end
  end
  if #sorts < 100 then return {removed, 0} end
end
