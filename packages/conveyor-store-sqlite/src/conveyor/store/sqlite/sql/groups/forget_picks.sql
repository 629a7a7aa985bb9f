delete from conveyor_queues
 where queue = :queue
   and not exists (
     select 1
       from conveyor_groups
            indexed by conveyor_groups_known
      where queue = :queue
        and known = 1
   )
