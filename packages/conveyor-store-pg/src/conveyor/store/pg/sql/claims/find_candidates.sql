-- What a claim chooses from where no job has a group, all as of one moment: what stands in its way, when time
-- alone may bring more, and the most urgent jobs. Read by several statements these would not fit each other:
-- the first job of a name that was paused between two of them was taken (test_pg_snapshots.py).
{include claimable_names},
found as (
  select 0 as stream, null as grp, '' as name, 0 as active, 0 as last_served, 0 as subqueue_sort_key, 0 as subqueue_second,
    %(count)s::bigint as depth, j.sort_key, j.second
    from ({jobs of ungrouped}) j
  union all
  (
    select 0, null, '', 0, 0, 0, 0, %(count)s::bigint, j.sort_key, j.second
      from names n
     cross join allowance c
     cross join lateral ({jobs of named}) j
     where n.allowed
       and c.any_name
       and not c.all_names
     order by j.sort_key, j.second
     limit %(count)s
  )
)
select
  g.*,
  {include soonest} at time zone 'UTC' as soonest,
  f.*
  from preconditions g
  left join found f
    on true
