-- Runs a procedure on one record, or on several of one slot, one after the other.
-- KEYS: $NAMES_EACH a record. ARGV: now, the first 12 bytes of the versions; then of each record: arguments$SORT_TOO. Arguments of
-- lone records that are the same for all stand there once.
-- Answers the output of one, or those of all; {2} for a bad time to live, {3} for what is undecodable. What Redis refuses of
-- one among several is its answer and stops no other.
local struct = struct
local function apply(state, now, arguments)
$PROCEDURE
end
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub
local now = $NOW
-- In which grain of time an update was made is part of its version, with the record's place in the call behind it.
local made_in = pack('>I2', math.floor(now / $GRAIN) % 65536)
local version = ARGV[2] .. made_in
-- Redis would turn the number into text anew for every record, which costs more than all else here.
local life_of, life_text
if #KEYS == $NAMES_EACH then
  local index, arguments, name, order, sort = 0, ARGV[3], KEYS[1], KEYS[2], ARGV[4]
$STEP
  return answer
end
local KEYS, ARGV, answers, count, index = KEYS, ARGV, {}, #KEYS / $NAMES_EACH, 0
local function run()
  while index < count do
    index = index + 1
    local arguments, name, order, sort = $OF_INDEX
$STEP
    answers[index] = answer or false
  end
end
while index < count do
  local is_done, refusal = pcall(run)
  if not is_done then answers[index] = type(refusal) == 'table' and refusal or {err = 'ERR ' .. tostring(refusal)} end
end
return answers
