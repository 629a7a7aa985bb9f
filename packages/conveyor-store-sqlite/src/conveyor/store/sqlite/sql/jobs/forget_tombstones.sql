delete from conveyor_tombstones
 where queue = :queue
   and at <= :horizon
