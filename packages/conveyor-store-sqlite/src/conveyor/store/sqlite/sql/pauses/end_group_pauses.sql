delete from conveyor_pauses
 where queue = :queue
   and kind = 'group'
   and resumes_at <= :now
