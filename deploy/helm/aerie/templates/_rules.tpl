{{/*
What the schema cannot say: rules between values. Each broken rule is a line that begins with the value and says what to
change. Those of a tree are service/speculation.py's and, of attention backends, service/runtime/config.py's and SGLang
0.5.23's; the preflight container checks them again, with the files and the GPU at hand.
*/}}

{{- define "aerie.rules" -}}
{{- include "aerie.rules.model" . }}
{{- include "aerie.rules.gateway" . }}
{{- $pools := dict }}
{{- include "aerie.pools" (dict "root" $ "out" $pools) }}
{{- range $pool := $pools }}
{{- $context := dict "root" $ "pool" $pool "at" (printf "pools.%s" $pool.name) }}
{{- include "aerie.rules.pool" $context }}
{{- include "aerie.rules.hardware" $context }}
{{- include "aerie.rules.scaling" $context }}
{{- include "aerie.rules.cache" $context }}
{{- if eq $pool.kind "speculative" }}
{{- include "aerie.rules.draft" $context }}
{{- include "aerie.rules.tree" $context }}
{{- else if or $pool.speculation $pool.draft }}
{{ $context.at }}: a baseline pool drafts nothing; leave draft and speculation out, or make it kind: speculative
{{- end }}
{{- end }}
{{- include "aerie.rules.fleet" (dict "pools" $pools "gateway" .Values.gateway) }}
{{- end }}

{{- define "aerie.rules.model" -}}
{{- $pools := dict }}
{{- include "aerie.pools" (dict "root" $ "out" $pools) }}
{{- if not $pools }}
pools: there is none; begin with -f values-cpu.yaml (any cluster), values-h100.yaml, values-h200.yaml or values-b200.yaml
{{- end }}
{{- if not .Values.model.name }}
model.name: name the `model` that clients ask for
{{- end }}
{{- if not .Values.model.sizeGiB }}
model.sizeGiB: say how large the weights are; the time that a start may take is computed from it
{{- end }}
{{- include "aerie.rules.source" (dict "source" .Values.model.source "at" "model.source") }}
{{- if and (eq .Values.cache.type "hostPath") (not (hasPrefix "/" .Values.cache.hostPath)) }}
cache.hostPath: must be an absolute path
{{- end }}
{{- end }}

{{/* Of (source, at). */}}
{{- define "aerie.rules.source" -}}
{{- if not .source.location }}
{{ .at }}.location: name the {{ get (dict "hub" "repository, ORG/NAME" "s3" "folder, s3://BUCKET/PREFIX" "pvc" "claim" "image" "image, by digest" "builtin" "model that the runtime's image holds") .source.type }}
{{- else if and (eq .source.type "s3") (not (hasPrefix "s3://" .source.location)) }}
{{ .at }}.location: {{ .source.location }} is no s3://BUCKET/PREFIX
{{- end }}
{{- if and .source.revision (ne .source.type "hub") }}
{{ .at }}.revision: only a hub has revisions; leave it out for type {{ .source.type }}
{{- end }}
{{- if and .source.path (not (has .source.type (list "pvc" "image"))) }}
{{ .at }}.path: is of types pvc and image; for type {{ .source.type }} the location says it all
{{- end }}
{{- if and .source.secretName (not (has .source.type (list "hub" "s3"))) }}
{{ .at }}.secretName: is of types hub and s3; images take imagePullSecrets
{{- end }}
{{- if and .source.sha256 (not (has .source.type (list "hub" "s3"))) }}
{{ .at }}.sha256: is checked where something is fetched, types hub and s3
{{- end }}
{{- end }}

{{- define "aerie.rules.gateway" -}}
{{- if and .Values.gateway.keys.secretName .Values.tests.enabled (not .Values.tests.secretName) }}
tests.secretName: the gateway asks for keys; name a secret whose key `key` is one, or set tests.enabled=false
{{- end }}
{{- with .Values.gateway }}
{{- if and (eq (int .replicas) 0) .podDisruptionBudget.enabled (not .autoscaling.enabled) }}
gateway.replicas: 0 with a PodDisruptionBudget; use 1 or more, or gateway.podDisruptionBudget.enabled=false
{{- end }}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) }}
gateway.autoscaling.minReplicas: {{ .autoscaling.minReplicas }} is more than maxReplicas={{ .autoscaling.maxReplicas }}
{{- end }}
{{- if and .autoscaling.enabled (not (dig "requests" "cpu" "" .resources)) }}
gateway.autoscaling: is a share of the requested CPU; set gateway.resources.requests.cpu
{{- end }}
{{- if and .service.externalTrafficPolicy (eq .service.type "ClusterIP") }}
gateway.service.externalTrafficPolicy: is of types NodePort and LoadBalancer; leave it out
{{- end }}
{{- if and (or .service.loadBalancerClass .service.loadBalancerSourceRanges) (ne .service.type "LoadBalancer") }}
gateway.service.type: loadBalancerClass and loadBalancerSourceRanges are of LoadBalancer, not of {{ .service.type }}
{{- end }}
{{- if and .ingress.enabled (not .ingress.hosts) }}
gateway.ingress.hosts: name at least one host
{{- end }}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}
gateway.httpRoute.parentRefs: name the Gateway that the route belongs to
{{- end }}
{{- $mounted := false }}
{{- range .extraVolumeMounts }}{{ if hasPrefix .mountPath (dig "folder" "" $.Values.gateway.capture) }}{{ $mounted = true }}{{ end }}{{ end }}
{{- if and .capture.share (not $mounted) }}
gateway.capture.folder: prompts are to be kept, but no volume is there; mount one with gateway.extraVolumes and extraVolumeMounts
{{- end }}
{{- range .extraEnv }}
{{- if hasPrefix "AERIE_" .name }}
gateway.extraEnv: {{ .name }} goes into gateway.settings, where its name is checked
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of (root, pool, at), as those below. */}}
{{- define "aerie.rules.pool" -}}
{{- with .pool }}
{{- if or (has .name (list "gateway" "runtime" "scripts" "models" "test")) (hasPrefix "dashboard-" .name) }}
{{ $.at }}: the chart has objects of that name; choose another
{{- end }}
{{- if and (eq (int .replicas) 0) .runtime.podDisruptionBudget.enabled (not .autoscaling.enabled) }}
{{ $.at }}.replicas: 0 with a PodDisruptionBudget; use 1 or more, or {{ $.at }}.runtime.podDisruptionBudget.enabled=false
{{- end }}
{{- if and (eq (int .runtime.strategy.maxSurge) 0) (eq (int .runtime.strategy.maxUnavailable) 0) }}
{{ $.at }}.runtime.strategy: an update needs maxSurge or maxUnavailable above 0
{{- end }}
{{- if not .profile.max_running_requests }}
{{ $.at }}.runtime.profile.max_running_requests: must be set; SGLang would choose 48 under speculation and another without
{{- end }}
{{- range .profile.extra_args }}
{{- if hasPrefix "--speculative-" . }}
{{ $.at }}.runtime.profile.extra_args: {{ . }} is set from {{ $.at }}.speculation and draft; use these
{{- else if has (. | splitList "=" | first) (splitList " " (include "aerie.dataParallelFlags" $)) }}
{{ $.at }}.runtime.profile.extra_args: {{ . }}: a replica is one SGLang of tp_size * pp_size GPUs; use {{ $.at }}.replicas
{{- else if has (. | splitList "=" | first) (splitList " " (include "aerie.ownedFlags" $)) }}
{{ $.at }}.runtime.profile.extra_args: {{ . }} is set by Aerie from a value of its own; use that
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* OWNED_FLAGS of service/runtime/config.py. */}}
{{- define "aerie.ownedFlags" -}}
--attention-backend --context-length --device --dist-init-addr --dtype --host --max-running-requests --max-total-tokens --mem-fraction-static --model-path --nnodes --node-rank --page-size --port --pp-size --served-model-name --tp-size --uvicorn-access-log-exclude-prefixes
{{- end }}

{{/* DATA_PARALLEL_FLAGS of service/runtime/config.py. */}}
{{- define "aerie.dataParallelFlags" -}}--data-parallel-size --dp-size{{- end }}

{{- define "aerie.rules.hardware" -}}
{{- $profile := .pool.profile }}
{{- $tp := $profile.tp_size | default 1 | int }}
{{- $pp := $profile.pp_size | default 1 | int }}
{{- $backend := $profile.attention_backend | default "" }}
{{- $at := printf "%s.runtime" .at }}
{{- if not .pool.isCuda }}
{{- if or (gt (mul $tp $pp) 1) (gt .pool.nodes 1) }}
{{ $at }}.profile: the CPU runtime is one process; use tp_size=1, pp_size=1 and nodes=1, or device=cuda
{{- end }}
{{- if not (has $backend (list "" "intel_amx")) }}
{{ $at }}.profile.attention_backend: on CPU only intel_amx can verify drafts, not {{ $backend }}
{{- end }}
{{- else if and (eq .pool.kind "speculative") (not $backend) }}
{{ $at }}.profile.attention_backend: pin one (fa3 on Hopper, trtllm_mha on Blackwell with eagle_topk 1, flashinfer or triton else); SGLang may pick one that cannot verify drafts (sgl-project/sglang#15127)
{{- end }}
{{- if ne (mod (mul $tp $pp) .pool.nodes) 0 }}
{{ $at }}.nodes: tp_size * pp_size = {{ mul $tp $pp }} GPUs do not divide among {{ .pool.nodes }} nodes
{{- end }}
{{- if and (gt .pool.nodes 1) (not .root.Values.leaderWorkerSet.enabled) }}
{{ $at }}.nodes: a replica of {{ .pool.nodes }} nodes is a LeaderWorkerSet; install it and set leaderWorkerSet.enabled=true, or use nodes=1
{{- end }}
{{- if and (gt $pp 1) (eq (.pool.speculation.algorithm | default "") "EAGLE3") }}
{{ $at }}.profile.pp_size: SGLang's EAGLE3 has no pipeline parallelism; use pp_size=1 and a larger tp_size
{{- end }}
{{- range .pool.runtime.gpuProducts }}
{{- if and (regexMatch "B200|B300|Blackwell" .) (eq $backend "fa3") }}
{{ $at }}.profile.attention_backend: fa3 needs an Ampere, Ada or Hopper GPU, not {{ . }}; use trtllm_mha with eagle_topk 1, or flashinfer
{{- end }}
{{- if and (regexMatch "^NVIDIA-[AL][0-9]" .) (eq $backend "trtllm_mha") }}
{{ $at }}.profile.attention_backend: trtllm_mha needs a Hopper or Blackwell GPU, not {{ . }}; use fa3
{{- end }}
{{- end }}
{{- if and .pool.runtime.gpuProducts (dig "nodeAffinity" "" .pool.runtime.affinity) }}
{{ $at }}.affinity.nodeAffinity: gpuProducts makes one; put the product into yours and leave gpuProducts empty
{{- end }}
{{- end }}

{{- define "aerie.rules.scaling" -}}
{{- with .pool.autoscaling }}
{{- if and .enabled (not $.root.Values.keda.prometheusAddress) }}
{{ $.at }}.autoscaling: KEDA asks Prometheus; set keda.prometheusAddress
{{- end }}
{{- if and .enabled (not $.root.Values.keda.externalMonitoring) }}
{{- with $.root.Values.monitoring }}
{{- if not .serviceMonitor.enabled }}
{{ $.at }}.autoscaling: replicas are counted from the gateways' metrics; set monitoring.serviceMonitor.enabled=true, or keda.externalMonitoring=true where something else scrapes them
{{- end }}
{{- if and $.pool.calibration.configMap (not .rules.enabled) }}
{{ $.at }}.autoscaling: a calibration is read with recording rules; set monitoring.rules.enabled=true, or keda.externalMonitoring=true where another release installs them
{{- end }}
{{- end }}
{{- end }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{ $.at }}.autoscaling.minReplicas: {{ .minReplicas }} is more than maxReplicas={{ .maxReplicas }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where fetched models are, all pods that mount it can be. */}}
{{- define "aerie.rules.cache" -}}
{{- if include "aerie.runtime.fetches" . }}
{{- with .root.Values.cache }}
{{- if and (eq .type "pvc") (not .claimName) (not (has "ReadWriteMany" .accessModes)) (not (hasKey $.pool.runtime.nodeSelector "kubernetes.io/hostname")) }}
cache.accessModes: a volume without ReadWriteMany is attached to one node, so an update's pod on another waits for ever; name a class that has ReadWriteMany in cache.storageClassName, pin {{ $.at }}.runtime.nodeSelector with kubernetes.io/hostname, or use cache.type=emptyDir
{{- end }}
{{- if and (eq .type "emptyDir") (gt $.pool.nodes 1) }}
cache.type: with emptyDir every node of a replica fetches for itself, and one that fails restarts all of them; use pvc, or a model source that is not fetched
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "aerie.rules.draft" -}}
{{- $algorithm := .pool.speculation.algorithm | default "" }}
{{- if or (not $algorithm) (eq $algorithm "NONE") }}
{{ .at }}.speculation.algorithm: a speculative pool needs one, EAGLE3 for instance; plain decoding is kind: baseline
{{- else if and (eq $algorithm "NGRAM") .pool.draft.source }}
{{ .at }}.draft.source: NGRAM drafts from the prompt and has no draft model; leave it out
{{- else if and (ne $algorithm "NGRAM") (not .pool.draft.source) }}
{{ .at }}.draft.source: {{ $algorithm }} needs a draft model; without one SGLang loads the target as its own draft and crashes
{{- end }}
{{- with .pool.draft.source }}
{{- include "aerie.rules.source" (dict "source" . "at" (printf "%s.draft.source" $.at)) }}
{{- end }}
{{- end }}

{{- define "aerie.rules.tree" -}}
{{- $at := printf "%s.speculation" .at }}
{{- $tree := .pool.speculation }}
{{- $steps := $tree.num_steps | default 0 | int }}
{{- $topk := $tree.eagle_topk | default 0 | int }}
{{- $tokens := $tree.num_draft_tokens | default 0 | int }}
{{- if not (and $steps $topk $tokens) }}
{{ $at }}: all three of num_steps, eagle_topk and num_draft_tokens are needed (SGLang would choose its own); a chain is 3, 1, 4, a tree 3, 4, 8
{{- else if ne ($tree.algorithm | default "") "NGRAM" }}
{{- $largest := add 1 $topk (mul (sub $steps 1) $topk $topk) }}
{{- if and (eq $topk 1) (ne $tokens (int (add $steps 1))) }}
{{ $at }}.num_draft_tokens: a chain (eagle_topk=1) has num_steps + 1 tokens, the root included; use num_draft_tokens={{ add $steps 1 }}
{{- else if lt $tokens (int (add $steps 1)) }}
{{ $at }}.num_draft_tokens: {{ $tokens }} tokens cannot reach a depth of {{ $steps }} steps; use num_draft_tokens={{ add $steps 1 }} or more
{{- else if gt $tokens (int $largest) }}
{{ $at }}.num_draft_tokens: num_steps={{ $steps }} with eagle_topk={{ $topk }} proposes at most {{ $largest }} nodes; use num_draft_tokens={{ $largest }} or fewer
{{- end }}
{{- end }}
{{- if and $tree.adaptive (or (ne $topk 1) (not (has $tree.algorithm (list "EAGLE3" "EAGLE")))) }}
{{ $at }}.adaptive: SGLang varies the length of EAGLE and EAGLE3 chains only; use eagle_topk=1, or adaptive=null
{{- end }}
{{- if and $tree.draft_p_min (or $tree.adaptive (ne $tree.algorithm "EAGLE3") .pool.isCuda) }}
{{ $at }}.draft_p_min: for EAGLE3 on device: cpu, where trees follow the batch size, and not beside adaptive; use draft_p_min=null
{{- else if and $tree.draft_p_min (not (hasKey $tree.draft_p_min "1")) }}
{{ $at }}.draft_p_min: needs a row for batch size 1; 0 verifies whole trees
{{- end }}
{{- include "aerie.rules.attention" . }}
{{- end }}

{{- define "aerie.rules.attention" -}}
{{- $backend := .pool.profile.attention_backend | default "" }}
{{- $paged := ternary (list "flashinfer") (list "flashinfer" "fa3" "triton") (eq (.pool.speculation.algorithm | default "") "NGRAM") }}
{{- if gt (.pool.speculation.eagle_topk | default 1 | int) 1 }}
{{- if eq $backend "trtllm_mha" }}
{{ .at }}.speculation.eagle_topk: attention backend trtllm_mha verifies chains only; use eagle_topk=1, or another backend
{{- else if and (gt (.pool.profile.page_size | default 1 | int) 1) (not (has $backend $paged)) }}
{{ .at }}.runtime.profile.page_size: a tree over pages works with {{ join ", " $paged }} only, not {{ $backend | default "the default backend" }}; use page_size=1
{{- end }}
{{- end }}
{{- end }}

{{/* What the pools are together: service/gateway/config.py would refuse the file. Of (pools, gateway). */}}
{{- define "aerie.rules.fleet" -}}
{{- $serving := dict }}
{{- $baselines := list }}
{{- range .pools }}
{{- if gt (float64 .weight) 0.0 }}{{ $_ := set $serving .kind true }}{{ end }}
{{- if eq .kind "baseline" }}{{ $baselines = append $baselines .name }}{{ end }}
{{- end }}
{{- if and .pools (not $serving) }}
pools: every weight is 0, so none would serve; give one a weight above 0
{{- end }}
{{- with .gateway }}
{{- range $field := list "grammar" "logprobs" }}
{{- if and (eq (get $.gateway.policy $field | default "") "baseline") (not (hasKey $serving "baseline")) }}
gateway.policy.{{ $field }}: baseline, but no pool of weight above 0 is of that kind; add one with kind: baseline
{{- end }}
{{- end }}
{{- $batch := .policy.batch_size | default dict }}
{{- if le (float64 ($batch.off_above | default 64)) (float64 ($batch.on_below | default 32)) }}
gateway.policy.batch_size.off_above: {{ $batch.off_above | default 64 }} must be greater than on_below={{ $batch.on_below | default 32 }}, or one request switches speculation back and forth; set both
{{- end }}
{{- if and .losslessness.share (not $baselines) }}
gateway.losslessness: answers are to be checked, but no pool is a baseline; add one with kind: baseline (weight 0 will do)
{{- end }}
{{- if and .losslessness.baseline_pool (not (has .losslessness.baseline_pool $baselines)) }}
gateway.losslessness.baseline_pool: {{ .losslessness.baseline_pool }} is no baseline pool
{{- end }}
{{- end }}
{{- end }}
