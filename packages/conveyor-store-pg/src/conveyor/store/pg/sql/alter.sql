-- What more than their place in life has changed of jobs.
update {schema}.conveyor_jobs j
   set priority = v.priority,
       rank = v.rank,
       payload = coalesce(v.payload::jsonb, j.payload),
       stalled = case when v.anew then 0 else j.stalled end,
       processed_at = case when v.anew then null else j.processed_at end
  from unnest(
    %(seq)s::bigint[],
    %(priority)s::int[],
    %(rank)s::float8[],
    %(payload)s::text[],
    %(anew)s::boolean[]
  ) v (seq, priority, rank, payload, anew)
 where j.seq = any(array[v.seq])
