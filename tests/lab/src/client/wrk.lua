-- Reports in one line of JSON; wrk_count.lua behind it counts answers by the backend that gave them.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  counts = {}
end

function done(summary, latency, requests)
  local total = {}
  for _, thread in ipairs(threads) do
    for backend, count in pairs(thread:get("counts")) do
      total[backend] = (total[backend] or 0) + count
    end
  end
  local backends = {}
  for backend, count in pairs(total) do
    table.insert(backends, string.format("%q:%d", backend, count))
  end
  local errors = summary.errors
  io.write(string.format(
    'report: {"requests":%d,"bad_status":%d,"connect_errors":%d,"read_errors":%d,"write_errors":%d,"timeouts":%d,' ..
    '"p50_us":%d,"p99_us":%d,"p999_us":%d,"bytes":%d,"duration_us":%d,"by_backend":{%s}}\n',
    summary.requests, errors.status, errors.connect, errors.read, errors.write, errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), summary.bytes, summary.duration,
    table.concat(backends, ",")))
end
