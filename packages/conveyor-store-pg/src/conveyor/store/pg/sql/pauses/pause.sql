insert into {schema}.conveyor_pauses as p (queue, kind, target, resumes_at)
values (%(queue)s, %(kind)s, %(target)s, %(resumes_at)s)
on conflict (queue, kind, target) do update
  set resumes_at = case
        when p.resumes_at <= %(now)s then excluded.resumes_at
        when p.resumes_at is null or excluded.resumes_at is null then null
        else greatest(p.resumes_at, excluded.resumes_at)
      end
