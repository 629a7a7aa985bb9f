-- What find_candidates.sql and find_candidates_in_groups.sql begin with: what stands in a claim's way, and
-- which names it may take.
with recursive preconditions as materialized (
  {include claim_preconditions}
),
-- The names of the jobs without a group; looked for, one search for each, only if some may not be claimed.
there (name) as (
  (
    select j.name
      from {schema}.conveyor_jobs j
     where j.queue = %(queue)s collate "POSIX"
       and j.state = 'waiting'
       and j.grp is null
       and (select not paused and (%(names)s::text[] is not null or cardinality(paused_names) > 0) from preconditions)
     order by j.name
     limit 1
  )
  union all
  select (
    select j.name
      from {schema}.conveyor_jobs j
     where j.queue = %(queue)s collate "POSIX"
       and j.state = 'waiting'
       and j.grp is null
       and j.name > t.name
     order by j.name
     limit 1
  )
    from there t
   where t.name is not null
),
names as materialized (
  select
    t.name,
    t.name <> all(g.paused_names) and (%(names)s::text[] is null or t.name = any(%(names)s::text[])) as allowed
    from there t
   cross join preconditions g
   where t.name is not null
),
allowance as materialized (
  select not g.paused as any_name, not g.paused and not exists (select from names where not allowed) as all_names
    from preconditions g
)
