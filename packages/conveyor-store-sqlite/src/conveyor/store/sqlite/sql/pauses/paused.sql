select json_group_array(json_array(kind, target, until))
  from conveyor_pauses
 where queue = :queue
   and (until is null or until > :now)
