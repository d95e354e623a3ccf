-- ARGV: now, how many live rows to keep, how many to remove at most, '' (keep the first) or 'rev' (keep the last); how far an
-- earlier call came: a bound behind the last row that stays ('' at the start), live rows up to there, all rows up to there,
-- the first time at which one of them expires (0: never); 'check' if that was in an earlier trim; rows to look at, bytes to
-- look at.
-- Answers {removed}, and where there is more {removed, 1} and how far it came, in the same four.
-- A corrupt row is neither counted nor removed where rows are kept.
--
-- Redis serves nobody while a script runs, so one call looks at a bounded number of rows and of bytes. Which rows go depends on
-- how many before them have expired, and only a walk over those that stay can tell; so the walk goes on in the next call, from
-- where this one came to. Where there are no more rows than are to be kept, there is no walk.
local call, name, order, now = redis.call, KEYS[1], KEYS[2], $NOW
$EXPIRY
local keep, budget = tonumber(ARGV[2]), tonumber(ARGV[3])
local range, back, rank, open, far = 'ZRANGEBYLEX', 'ZREVRANGEBYLEX', 'ZRANK', '-', '+'
if ARGV[4] == 'rev' then
  range, back, rank, open, far = 'ZREVRANGEBYLEX', 'ZRANGEBYLEX', 'ZREVRANK', '+', '-'
end
if call('ZCARD', order) <= keep then return {0} end
local bound, kept, passed, till = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if bound ~= '' and ARGV[9] == 'check' then
  -- Rows may have gone or expired since; if so, the walk begins anew.
  local at = call(rank, order, string.sub(bound, 2))
  if not at or at + 1 < passed or (till ~= 0 and till <= now) then bound = '' end
end
if bound == '' then bound, kept, passed, till = open, 0, 0, 0 end
local removed = 0
if kept < keep then
  local rows, left = tonumber(ARGV[10]), tonumber(ARGV[11])
  local sorts = call(range, order, bound, far, 'LIMIT', 0, rows)
  local is_end = #sorts < rows
  for at, sort in ipairs(sorts) do
    local record = $LOAD
    local expires = record and expiry(record)
    if record then left = left - #record end
    if record and (not expires or expires == 0 or expires > now) then
      bound, passed = '(' .. sort, passed + 1
      if expires then
        kept = kept + 1
        if expires ~= 0 and (till == 0 or expires < till) then till = expires end
      end
    else
      if removed == budget then return {removed, 1, bound, kept, passed, till} end
      $REMOVE
      removed = removed + 1
    end
    if kept == keep then break end
    if left < 0 then
      is_end = at == #sorts and is_end
      break
    end
  end
  if kept < keep then
    if is_end then return {removed} end
    return {removed, 1, bound, kept, passed, till}
  end
end
-- From the far end on: if rows that stay go before the next call, those next to them are still there.
local goes = call(back, order, far, bound, 'LIMIT', 0, budget - removed + 1)
local has_more = #goes > budget - removed
if has_more then goes[#goes] = nil end
if #goes > 0 then
  call('ZREM', order, unpack(goes))
  call('HDEL', name, unpack(goes))
end
if not has_more then return {removed + #goes} end
return {removed + #goes, 1, bound, kept, passed, till}
