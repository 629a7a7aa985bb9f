-- Every trace of a queue in a table.
delete from {table}
 where queue = :queue
