insert into conveyor_events (source, at, body)
values (:handle, :now, :body)
