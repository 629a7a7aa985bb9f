delete from conveyor_starts
 where queue = :queue
   and kind = :kind
   and at <= :horizon
