delete from {schema}.conveyor_listeners
 where handle = %(handle)s
