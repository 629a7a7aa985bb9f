delete from conveyor_tombstones
 where queue = :queue
