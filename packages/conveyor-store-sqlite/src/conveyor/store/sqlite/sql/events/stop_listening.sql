-- This handle, and those that are gone.
delete from conveyor_listeners
 where handle = :handle
    or until <= :now
