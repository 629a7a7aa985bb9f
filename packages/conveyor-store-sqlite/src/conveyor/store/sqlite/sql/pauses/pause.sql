insert into conveyor_pauses (queue, kind, target, until)
values (:queue, :kind, :target, :until)
on conflict (queue, kind, target) do update
  set until = case
        when until <= :now then excluded.until
        when until is null or excluded.until is null then null
        else max(until, excluded.until)
      end
