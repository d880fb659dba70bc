{{/* Every pool by its name, filled into the dict `out`; one that is null was taken out by a later file. Of (root, out). */}}
{{- define "aerie.pools" -}}
{{- range $name, $pool := .root.Values.pools }}
{{- if $pool }}
{{- $_ := set $.out $name dict }}
{{- include "aerie.pool" (dict "root" $.root "name" $name "pool" $pool "out" (get $.out $name)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty where a pool that takes requests speculates. */}}
{{- define "aerie.speculates" -}}
{{- $pools := dict }}
{{- include "aerie.pools" (dict "root" . "out" $pools) }}
{{- range $pools }}{{ if and (eq .kind "speculative") (gt (float64 .weight) 0.0) }}yes{{ end }}{{ end }}
{{- end }}

{{/*
A pool as the templates use it: `runtime` with the pool's own over it, and everything computed from it.
Filled into the dict `out`, because what `include` returns is text. Of (root, name, pool, out).
*/}}
{{- define "aerie.pool" -}}
{{- $runtime := mergeOverwrite (deepCopy .root.Values.runtime) (deepCopy (.pool.runtime | default dict)) -}}
{{- $profile := $runtime.profile -}}
{{- $speculation := .pool.speculation | default dict -}}
{{- $autoscaling := mergeOverwrite (dict "enabled" false "minReplicas" 1 "maxReplicas" 4 "minSpeedup" 1.2 "utilization" 0.8) (.pool.autoscaling | default dict) -}}
{{- $sizeGiB := addf (.root.Values.model.sizeGiB | default 0) (dig "sizeGiB" 0 (.pool.draft | default dict) | default 0) -}}
{{- $loading := divf $sizeGiB $runtime.startup.loadGiBPerSecond | ceil | int -}}
{{- $out := .out -}}
{{- $_ := set $out "name" .name -}}
{{- $_ := set $out "fullname" (printf "%s-%s" (include "aerie.fullname" .root) .name) -}}
{{- /* a LeaderWorkerSet makes a service of its own name, where its nodes find one another before they are ready */ -}}
{{- $_ := set $out "service" (printf "%s%s" $out.fullname (ternary "-main" "" (gt ($runtime.nodes | int) 1))) -}}
{{- $_ := set $out "kind" (.pool.kind | default "speculative") -}}
{{- $_ := set $out "replicas" (.pool.replicas | default (ternary 0 1 (eq (toString .pool.replicas) "0")) | int) -}}
{{- $_ := set $out "weight" (ternary 1 .pool.weight (kindIs "invalid" .pool.weight)) -}}
{{- $_ := set $out "hardware" (.pool.hardware | default "") -}}
{{- $_ := set $out "draft" (.pool.draft | default dict) -}}
{{- $_ := set $out "speculation" $speculation -}}
{{- $_ := set $out "autoscaling" $autoscaling -}}
{{- $_ := set $out "calibration" (.pool.calibration | default dict) -}}
{{- $_ := set $out "runtime" $runtime -}}
{{- $_ := set $out "profile" $profile -}}
{{- $_ := set $out "isCuda" (eq ($profile.device | toString) "cuda") -}}
{{- $_ := set $out "nodes" ($runtime.nodes | int) -}}
{{- $_ := set $out "gpus" (div (mul ($profile.tp_size | default 1 | int) ($profile.pp_size | default 1 | int)) ($runtime.nodes | int)) -}}
{{- $_ := set $out "maxInFlight" (.pool.maxInFlight | default $profile.max_running_requests | int) -}}
{{- $_ := set $out "startupSeconds" (add ($runtime.startup.baseSeconds | int) $loading) -}}
{{- $_ := set $out "labels" (dict "root" .root "component" "runtime" "pool" .name) -}}
{{- end }}

{{/* The runtime's profile: service/runtime/config.py. Of (root, pool). */}}
{{- define "aerie.pool.profile" -}}
{{- toYaml .pool.profile }}
model: {{ include "aerie.source.place" (dict "source" .root.Values.model.source "role" "target") | quote }}
served_model_name: {{ .root.Values.model.name | quote }}
host: 0.0.0.0
port: {{ include "aerie.runtime.port" . }}
{{- if gt .pool.nodes 1 }}
nodes: {{ .pool.nodes }}
{{- end }}
startup_budget_s: {{ .pool.startupSeconds }}
drain_timeout_s: {{ .pool.runtime.drain.timeoutSeconds }}
speculation:
{{- if eq .pool.kind "baseline" }}
  algorithm: NONE
{{- else }}
  {{- toYaml .pool.speculation | nindent 2 }}
  {{- with .pool.draft.source }}
  draft: {{ include "aerie.source.place" (dict "source" . "role" "draft") | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Where a container finds a model: what it is called in the image, a mounted folder, or one of the cache that is named after
its source, so that another revision is another folder. Of (source, role), the role being target or draft.
*/}}
{{- define "aerie.source.place" -}}
{{- if eq .source.type "builtin" -}}
{{ .source.location }}
{{- else if has .source.type (list "pvc" "image") -}}
/models/{{ .role }}{{ with .source.path }}/{{ trimAll "/" . }}{{ end }}
{{- else -}}
/models/cache/{{ include "aerie.source.folder" .source }}
{{- end -}}
{{- end }}

{{- define "aerie.source.folder" -}}
{{- $name := regexReplaceAll "[^a-z0-9._-]+" (.location | replace "s3://" "" | lower | replace "/" "--") "-" | trunc 60 | trimSuffix "-" -}}
{{- $sums := .sha256 | default dict | toJson -}}
{{- $name }}-{{ printf "%s@%s#%s" .location (.revision | default "") $sums | sha256sum | trunc 8 -}}
{{- end }}

{{/* The batch sizes that the gateway counts by: BATCH_SIZES of service/gateway/batches.py, the largest first. */}}
{{- define "aerie.batchSizes" -}}256 128 64 56 48 32 24 16 8 4 2 1{{- end }}

{{/*
Replicas that a pool needs: requests at it and in its queue, over the batch size that a replica shall have. That is the
largest batch size at which tau / break-even, the speedup to be expected there, is at least minSpeedup. Without a
calibration, without traffic, or where speculation pays nowhere, it is autoscaling.batchSize. Of (root, pool).
*/}}
{{- define "aerie.pool.demand" -}}
{{- $this := printf "namespace=%q,pool=%q" .root.Release.Namespace .pool.name -}}
{{- $most := .pool.profile.max_running_requests | int -}}
{{- $fallback := .pool.autoscaling.batchSize | default $most | int -}}
{{- $scaling := .pool.autoscaling -}}
(sum(aerie_upstream_requests_in_flight{{ printf "{%s}" $this }}) + sum(aerie_queue_waiting_requests{{ printf "{%s}" $this }}))
/ ({{ $scaling.utilization }} * scalar(
{{- if eq .pool.kind "speculative" }}
{{- range splitList " " (include "aerie.batchSizes" .) }}
{{- if le (int .) $most }}
  ({{ . }} * (max(pool:aerie_spec_acceptance_length:ratio_rate5m{{ printf "{%s}" $this }}) >= bool {{ $scaling.minSpeedup }} * max(aerie_spec_break_even_acceptance_length{{ printf "{%s,batch_size=%q}" $this . }})) > 0) or
{{- end }}
{{- end }}
{{- end }}
  vector({{ $fallback }})
))
{{- end }}
