insert into {schema}.conveyor_pauses as p (queue, kind, target, until)
values (%(queue)s, %(kind)s, %(target)s, %(until)s)
on conflict (queue, kind, target) do update
  set until = case
        when p.until <= %(now)s then excluded.until
        when p.until is null or excluded.until is null then null
        else greatest(p.until, excluded.until)
      end
