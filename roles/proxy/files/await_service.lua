-- Lets a request wait while the map has the key "waiting", up to a limit.
-- Arguments: the map, which HAProxy and this share, and the limit in seconds.
local path, limit = ...
local traffic = Map.new(path, Map._str)

core.register_action("await_service", { "http-req" }, function(_)
  local deadline = core.now().sec + tonumber(limit)
  while traffic:lookup("waiting") and core.now().sec < deadline do
    core.msleep(50)
  end
end)
