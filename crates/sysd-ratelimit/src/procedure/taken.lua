-- Reads what was taken of a rule, as schema/taken.rs writes it. Every number here is an integer below 2^53, where a double is exact, or
-- is refused.
local TAKEN_BYTES, LONGEST = {50, 50, 23, 30, 16, 23}, 3155760000000000

-- The one that begins at a place; nil if there is none.
local function read_taken(text, at)
  local code = string.byte(text, at + 4)
  local size = code and TAKEN_BYTES[code]
  if not size or size > #text - at + 1 then return nil end
  local taken = {size = size, bytes = string.sub(text, at, at + size - 1)}
  taken.id, taken.code, taken.cost, taken.at = struct.unpack('>I4BI4I7', text, at)
  if taken.cost == 0 or taken.at > 9007199254740991 then return nil end
  if code <= 2 then
    taken.parts, taken.price, taken.price_part, taken.debt, taken.debt_part, taken.high, taken.low =
      struct.unpack('>I4I7I4I7I4I4I4', text, at + 16)
    local is_above = taken.price > taken.debt or (taken.price == taken.debt and taken.price_part > taken.debt_part)
    if is_above or taken.debt > LONGEST or taken.price_part >= taken.parts or taken.debt_part >= taken.parts then
      return nil
    end
  elseif code == 4 then
    taken.ends, taken.window = struct.unpack('>I7I7', text, at + 16)
    if taken.ends > 9007199254740991 or taken.window > LONGEST then return nil end
  elseif code ~= 5 then
    taken.ends = struct.unpack('>I7', text, at + 16)
    if taken.ends > 9007199254740991 then return nil end
  end
  return taken
end

