-- Groups without a live job that are not known, or were served before every group with waiting jobs.
-- One that is paused keeps its row, and is as one that was never served.
with idle as materialized (
  select g.grp, g.paused
    from {schema}.conveyor_groups g
   where g.queue = %(queue)s
     and g.waiting = 0
     and g.delayed = 0
     and g.active = 0
     and (
       not g.known
       or g.last_served < coalesce(
         least(
           (
             select w.last_served
               from {schema}.conveyor_groups w
              where w.queue = %(queue)s
                and w.waiting > 0
              order by w.last_served
              limit 1
           ),
           (
             select q.ungrouped_last_served
               from {schema}.conveyor_queues q
              where q.queue = %(queue)s
                and (
                  select true
                    from {schema}.conveyor_jobs
                   where queue = %(queue)s and state = 'waiting' and grp is null
                   order by sort_key, tie_break
                   limit 1
                ) is not null
           )
         ),
         9223372036854775807
       )
     )
   order by g.grp
     for update skip locked
),
kept as (
  update {schema}.conveyor_groups
     set known = false,
         last_served = 0
   where queue = %(queue)s
     and grp = any(array(select grp from idle where paused))
     and (known or last_served > 0)
)
delete from {schema}.conveyor_groups
 where queue = %(queue)s
   and grp = any(array(select grp from idle where not paused))
