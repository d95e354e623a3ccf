-- Gives back what was taken from several rules: the twin of give.rs. Before it stands giving.lua.
local given, at = 0, 1
while at <= #arguments do
  local taken = read_taken(arguments, at)
  at = at + taken.size
  local done = give_back(taken, now)
  if done == nil then return 'undecodable', 'state' end
  if done then given = given + 1 end
end
if given == 0 then return 'keep', pack('>B', 0) end
local record, last = packed_entries()
if record == '' then return 'delete', pack('>B', given) end
return 'put', pack('>B', given), pack('>B', 1) .. record, last and last - now or nil
