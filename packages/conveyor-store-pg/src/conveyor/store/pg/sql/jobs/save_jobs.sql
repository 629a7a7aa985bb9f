-- The state of jobs, and what goes with it. A job that is not active has no lease.
update {schema}.conveyor_jobs j
   set state = v.state,
       attempt = v.attempt,
       cancel_requested = v.cancel_requested,
       run_at = v.run_at,
       delay = v.delay,
       pending = v.pending,
       released = v.released,
       holds_key = v.holds_key,
       finished_at = v.finished_at,
       expires_at = v.expires_at,
       keep_count = v.keep_count,
       settled_token = v.settled_token,
       settled_state = v.settled_state,
       settled_at = v.settled_at,
       token = case when v.state = 'active' then j.token end,
       lease_until = case when v.state = 'active' then j.lease_until end,
       locked_by = case when v.state = 'active' then j.locked_by end,
       started = j.started and v.state = 'active',
       stalled = v.stalled,
       report = coalesce(v.report::json, j.report)
  from unnest(
    %(seq)s::bigint[],
    %(state)s::text[],
    %(attempt)s::int[],
    %(cancel_requested)s::boolean[],
    %(run_at)s::timestamptz[],
    %(delay)s::bigint[],
    %(pending)s::int[],
    %(released)s::boolean[],
    %(holds_key)s::boolean[],
    %(finished_at)s::timestamptz[],
    %(expires_at)s::timestamptz[],
    %(keep_count)s::int[],
    %(settled_token)s::text[],
    %(settled_state)s::text[],
    %(settled_at)s::timestamptz[],
    %(report)s::text[],
    %(stalled)s::int[]
  ) v (
    seq, state, attempt, cancel_requested, run_at, delay, pending, released, holds_key, finished_at,
    expires_at, keep_count, settled_token, settled_state, settled_at, report, stalled
  )
 where j.seq = any(array[v.seq])
