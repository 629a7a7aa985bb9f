-- This handle, and those that are gone.
delete from conveyor_listeners
 where handle = :handle
    or expires_at <= :now
