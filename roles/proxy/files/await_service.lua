-- Lets a request wait while the map has the key "waiting", up to a limit.
-- The configuration sets the map, which HAProxy and this share, and the limit in seconds. HAProxy 2.6 passes no arguments.
local traffic = Map.new(os.getenv("TRUTHGRAPH_TRAFFIC_MAP"), Map._str)
local limit = tonumber(os.getenv("TRUTHGRAPH_INFERENCE_WAIT"))

core.register_action("await_service", { "http-req" }, function(_)
  local deadline = core.now().sec + limit
  while traffic:lookup("waiting") and core.now().sec < deadline do
    core.msleep(50)
  end
end)
