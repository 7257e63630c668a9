"""How Celery runs here: every setting that differs from Celery's default, each with its reason.

The broker's address and the times that depend on it come from the process's settings (see workers/bootstrap.py);
importing this module reads no environment.
"""

from kombu import Exchange, Queue

# --- Messages: small, plain, and worth nothing by themselves ---
task_serializer = "json"
accept_content = ["json"]  # a pickled message could run code
result_accept_content = ["json"]
task_ignore_result = True  # PostgreSQL holds every outcome; results in Redis would be a second truth
task_store_errors_even_if_ignored = False
result_backend = None
enable_utc = True
timezone = "UTC"
task_default_queue = "billing"  # a task without a route must not vanish into a queue that nobody reads
task_create_missing_queues = False  # a misspelt queue is an error at the sender, not a queue without a consumer
task_queues = [
    # Each with its own exchange: queues that share one get copies of each other's messages.
    Queue(name, exchange=Exchange(name, type="direct"), routing_key=name)
    for name in ("requests", "billing", "text", "image", "embedding", "periodic", "webhooks")
]
task_routes = {
    "generation.submit": {"queue": "requests"},
    "generation.check_balance": {"queue": "billing"},
    "generation.reserve_credits": {"queue": "billing"},
    "generation.call_provider": {"queue": "text"},  # the pipeline names the queue of the job's kind
    "generation.ask_provider": {"queue": "text"},  # the same
    "generation.settle_charge": {"queue": "billing"},
    "generation.refund_credits": {"queue": "billing"},
    "periodic.*": {"queue": "periodic"},
    "webhooks.*": {"queue": "webhooks"},
}

# --- Delivery: at least once; each step is harmless when repeated ---
task_acks_late = True  # a message is acknowledged when its work is committed, not when it is taken
task_reject_on_worker_lost = True  # a killed child gives its message back; the job row caps how often it is tried
task_acks_on_failure = True  # a failed step is not redelivered for ever: the recovery task owns what was left open
task_acks_on_timeout = True
worker_prefetch_multiplier = 1  # no worker hoards messages that another could run
worker_deduplicate_successful_tasks = False  # needs results; the guarded transitions are the deduplication
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # a worker outlives any outage of the broker
worker_cancel_long_running_tasks_on_connection_loss = False  # a paid call is finished and recorded in any case
task_publish_retry = True
task_publish_retry_policy = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0}

broker_transport_options = {
    "visibility_timeout": 900,  # above the longest task: a shorter one delivers running work a second time
    "unacked_restore_interval": 5,  # what a killed worker held comes back in seconds, not minutes
    "unacked_restore_throttle": 1,
    "socket_timeout": 5,  # without these, a publish to a dead host hangs
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    # No key prefix: an app in any language reaches a queue by its plain name (in a Redis database of its own).
}

# --- Workers ---
task_soft_time_limit = 540  # above a provider call with its retries, below the hard limit
task_time_limit = 600  # below the visibility timeout (prefork only: threads have no limits, so every call has its own)
worker_max_tasks_per_child = 1000  # slow leaks end with the child (prefork only)
worker_soft_shutdown_timeout = 30  # after a quick stop, running tasks get this long before they are given back
worker_enable_soft_shutdown_on_idle = True  # prefetched and delayed messages are given back too
worker_eta_task_limit = 100  # long waits live in PostgreSQL (next_at), not in a worker's memory
worker_consumer = "tasks.messages.consumer:CarefulConsumer"  # sets aside what cannot be read instead of printing it
worker_hijack_root_logger = False  # logging is configured once, by config.logging
worker_redirect_stdouts = False

# --- What operators see in Flower ---
worker_send_task_events = True
task_send_sent_event = False  # a message about each message: a task shows when a worker has it, queues show the rest
event_queue_expires = 60  # an event queue without a reader goes away
event_queue_ttl = 5

# --- Beat: a tick that comes twice or late changes nothing ---
beat_schedule = {
    "recover_jobs": {"task": "periodic.recover_jobs", "schedule": 15.0, "options": {"expires": 60}},
    "renew_subscriptions": {"task": "periodic.renew_subscriptions", "schedule": 60.0, "options": {"expires": 60}},
    "reset_plan_limits": {"task": "periodic.reset_plan_limits", "schedule": 60.0, "options": {"expires": 60}},
    "roll_up_revenue": {"task": "periodic.roll_up_revenue", "schedule": 60.0, "options": {"expires": 60}},
    "deliver_webhooks": {"task": "periodic.deliver_webhooks", "schedule": 15.0, "options": {"expires": 60}},
    "audit_books": {"task": "periodic.audit_books", "schedule": 600.0, "options": {"expires": 600}},
}
beat_max_loop_interval = 5  # notices a changed clock soon
