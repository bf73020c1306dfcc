-- Made by wsgi-fleet. Ends a body of unknown length after FLEET_MOST_BYTES, one more than are allowed: its length is too
-- large then, and the response 413. Apache's own LimitRequestBody does not count the chunks of what it passes on.
function limit(r)
    local left = tonumber(r.subprocess_env["FLEET_MOST_BYTES"])
    coroutine.yield()
    while bucket ~= nil do
        local part = bucket:sub(1, left)
        left = left - #part
        coroutine.yield(part)
    end
end
