-- luacheck's settings for lua/. Redis runs Lua 5.1 in a sandbox: these globals, no modules, no files.
std = 'lua51'
read_globals = { 'redis', 'KEYS', 'ARGV', 'cjson', 'cmsgpack', 'bit', 'struct' }
not_globals = {
  'require', 'module', 'package', 'io', 'os', 'debug', 'dofile', 'loadfile', 'load', 'loadstring', 'print', 'getfenv', 'setfenv',
}
max_line_length = 140

-- A script is its fragments and its own file joined, so alone a fragment's names look unused, and a script's undefined.
-- Here every file may use every name of lua/lib; that each script joins the fragments it uses is what .ci/lint-lua checks,
-- on the joined scripts.
local names = {}
local list = assert(io.popen('ls lua/lib/*.lua 2>/dev/null'))
for path in list:lines() do
  for line in io.lines(path) do
    local name = line:match('^local function ([%w_]+)')
    local several = not name and line:match('^local ([%w_, ]+)')
    for word in (name or several or ''):gmatch('[%w_]+') do names[#names + 1] = word end
  end
end
list:close()
files['lua'].read_globals = names
files['lua/lib'].ignore = { '211' }
