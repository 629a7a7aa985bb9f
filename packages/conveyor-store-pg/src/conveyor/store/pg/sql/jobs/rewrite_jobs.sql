-- What only `Store.update` changes of jobs.
update {schema}.conveyor_jobs j
   set priority = v.priority,
       sort_key = v.sort_key,
       payload = coalesce(v.payload::jsonb, j.payload),
       processed_at = case when v.reset then null else j.processed_at end
  from unnest(
    %(seq)s::bigint[],
    %(priority)s::int[],
    %(sort_key)s::float8[],
    %(payload)s::text[],
    %(reset)s::boolean[]
  ) v (seq, priority, sort_key, payload, reset)
 where j.seq = any(array[v.seq])
