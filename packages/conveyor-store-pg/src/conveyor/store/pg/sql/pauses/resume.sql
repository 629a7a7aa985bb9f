delete from {schema}.conveyor_pauses
 where queue = %(queue)s
   and kind = %(kind)s
   and target = %(target)s
