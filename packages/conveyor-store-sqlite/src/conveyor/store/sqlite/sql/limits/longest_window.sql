select longest
  from conveyor_windows
 where queue = :queue
   and kind = :kind
