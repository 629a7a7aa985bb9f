select json_group_array(json_array(kind, target, resumes_at))
  from conveyor_pauses
 where queue = :queue
   and (resumes_at is null or resumes_at > :now)
