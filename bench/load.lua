-- What wrk sends and reports. Its arguments: METHOD, BODY or "", and the beginning of each request's Idempotency-Key or "".
function init(args)
  wrk.method = args[1]
  if args[2] ~= "" then wrk.body = args[2] end
  if args[3] ~= "" then
    local count = 0
    function request()
      count = count + 1
      wrk.headers["Idempotency-Key"] = args[3] .. count
      return wrk.format()
    end
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"answers": %d, "answers/s": %f, "p50 ms": %f, "p99 ms": %f, "p99.9 ms": %f, "longest ms": %f, "errors": '
      .. '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
    summary.requests, summary.requests * 1e6 / summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency:percentile(99.9) / 1000,
    latency.max / 1000, e.connect, e.read, e.write, e.status, e.timeout))
end
