-- Takes from several rules, all or none: the twin of rules.rs. Before it stands asking.lua.

-- 1 takes, 0 only looks. Then how many rules are in force beside those that are asked, and their numbers.
local takes, others = byte(arguments) == 1, byte(arguments, 2)
local asked = read_asked(3 + 4 * others)
local denied = ask_all(asked, false)
if denied == nil then return 'undecodable', 'state' end
local answer, writes = answer_of(asked, denied or not takes)
if denied or not takes or not writes then return 'keep', answer end
for _, rule in ipairs(asked) do
  if rule[5] then write(rule) end
end
local in_force = {}
if count > ENTRIES_MAX then
  for other = 1, others do in_force[unpack('>I4', arguments, 4 * other - 1)] = true end
  for _, rule in ipairs(asked) do in_force[rule[1]] = true end
end
local record, last = packed_entries(in_force)
return 'put', answer, pack('>B', 1) .. record, last and last - now or nil
