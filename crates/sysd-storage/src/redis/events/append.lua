-- Appends events of one partition in their order, all or none of them.
-- KEYS: the stream. ARGV: how many events it keeps, about; then of each event its head, its key and its bytes.
for at = 2, #ARGV, 3 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '0-*', 'm', ARGV[at], 'k', ARGV[at + 1], 'v', ARGV[at + 2])
end
return #ARGV
