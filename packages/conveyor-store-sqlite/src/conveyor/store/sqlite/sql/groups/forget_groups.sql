-- Groups without a live job that are not known, or were served before every group with waiting jobs.
delete from conveyor_groups
 where queue = :queue
   and grp in (
     select grp
       from conveyor_groups
            indexed by conveyor_groups_idle
      where queue = :queue
        and waiting = 0
        and delayed = 0
        and active = 0
        and known = 0
     union all
     select grp
       from conveyor_groups
            indexed by conveyor_groups_idle
      where queue = :queue
        and waiting = 0
        and delayed = 0
        and active = 0
        and known = 1
        and last_served < coalesce(
          (
            select min(last_served)
              from (
                select min(last_served) as last_served
                  from conveyor_groups
                       indexed by conveyor_groups_waiting
                 where queue = :queue
                   and waiting > 0
                union all
                select q.ungrouped_last_served
                  from conveyor_queues q
                 where q.queue = :queue
                   and exists (
                     select 1
                       from conveyor_jobs
                      where queue = :queue
                        and state = 'waiting'
                        and grp is null
                   )
              )
          ),
          9223372036854775807
        )
   )
