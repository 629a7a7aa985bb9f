delete from conveyor_pauses
 where queue = :queue
   and kind = 'group'
   and until <= :now
