delete from conveyor_groups
 where queue = :queue
