-- What more than their place in life has changed of jobs.
update {schema}.conveyor_jobs j
   set priority = v.priority,
       rank = v.rank,
       payload = coalesce(v.payload::jsonb, j.payload),
       processed_at = case when v.reset then null else j.processed_at end
  from unnest(
    %(seq)s::bigint[],
    %(priority)s::int[],
    %(rank)s::float8[],
    %(payload)s::text[],
    %(reset)s::boolean[]
  ) v (seq, priority, rank, payload, reset)
 where j.seq = any(array[v.seq])
