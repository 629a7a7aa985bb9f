-- The same for a queue that knows groups: with the sub-queues that may be picked from next, each with its first
-- jobs. Read by another statement, a sub-queue whose group was moved meanwhile was passed over.
{include claimable_names},
classes as materialized (
  select 1 as stream, k.name, k.throttled_for, k.active
    from ({include subqueue_classes_never_served}) k
  union all
  select 2, k.name, k.throttled_for, k.active
    from ({include subqueue_classes_served}) k
),
wanted as materialized (
  select k.*
    from classes k
   cross join preconditions g
   where not g.paused
     and k.name <> all(g.paused_names)
     and (%(names)s::text[] is null or k.name = any(%(names)s::text[]))
     and (%(rate)s::text = '' or k.throttled_for <> %(rate)s::text)
     and (%(most)s::int is null or k.active < %(most)s::int)
),
-- Those whose group was never served, and then the others, the one served longest ago first.
subqueues as materialized (
  (
    select 1 as stream, l.grp, l.name, l.active, l.last_served, l.sort_key, l.head, l.head as second
      from wanted k
     cross join lateral (
       select l.grp, l.name, l.active, l.last_served, l.sort_key, l.{head} as head
         from {schema}.conveyor_subqueues l
        where l.queue = %(queue)s
          and l.name = k.name
          and l.throttled_for = k.throttled_for
          and l.active = k.active
          and not l.paused
          and l.last_served = 0
        order by l.sort_key, l.{head}
        limit %(page)s
     ) l
     where k.stream = 1
     order by l.sort_key, l.head
     limit %(page)s
  )
  union all
  (
    select 2, l.grp, l.name, l.active, l.last_served, l.sort_key, l.head, l.last_served
      from wanted k
     cross join lateral (
       select l.grp, l.name, l.active, l.last_served, l.sort_key, l.{head} as head
         from {schema}.conveyor_subqueues l
        where l.queue = %(queue)s
          and l.name = k.name
          and l.throttled_for = k.throttled_for
          and l.active = k.active
          and not l.paused
          and l.last_served > 0
        order by l.sort_key, l.last_served
        limit %(page)s
     ) l
     where k.stream = 2
     order by l.sort_key, l.last_served
     limit %(page)s
  )
),
-- Of each so many jobs that they are enough if all sub-queues have as many, or as many as are asked for.
deep as materialized (
  select
    l.*,
    case
      when d.name is not null then %(count)s::bigint
      else least(%(count)s::bigint, (%(count)s::bigint * %(times)s::bigint + s.subqueues - 1) / s.subqueues)
    end as depth
    from subqueues l
   cross join (select count(*) as subqueues from subqueues) s
    left join unnest(%(deep_groups)s::text[], %(deep_names)s::text[]) d (grp, name)
      on d.grp = l.grp
     and d.name = l.name
),
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
  union all
  select l.stream, l.grp, l.name, l.active, l.last_served, l.sort_key, l.second, l.depth, j.sort_key, j.second
    from deep l
   cross join lateral (
     select l.sort_key, l.head as second
      where l.depth <= 1
     union all
     ({jobs of grouped})
   ) j
)
select
  g.*,
  {include soonest} at time zone 'UTC' as soonest,
  f.*
  from preconditions g
  left join found f
    on true
