-- Starts recorded for later instants, by a clock that was set back since, come after these.
update conveyor_starts
   set total = total + (e.value ->> 1)
  from json_each(:targets) e
 where conveyor_starts.queue = :queue
   and conveyor_starts.kind = :kind
   and conveyor_starts.target = e.value ->> 0
   and conveyor_starts.at > :now
