-- Takes from several rules, all or none: the twin of rules.rs. Before it stands asking.lua.
local asked = read_asked(1)
local denied = ask_all(asked, false)
if denied == nil then return 'undecodable', 'state' end
local answer, writes = answer_of(asked, denied)
if denied or not writes then return 'keep', answer end
for _, rule in ipairs(asked) do
  if rule[5] then write(rule) end
end
local record, last = packed_entries()
return 'put', answer, pack('>B', 1) .. record, last and last - now or nil
