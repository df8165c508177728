-- With this function defined, wrk keeps the whole of every answer for it.
function response(status, headers, body)
  local backend = headers["X-Backend"] or "?"
  counts[backend] = (counts[backend] or 0) + 1
end
