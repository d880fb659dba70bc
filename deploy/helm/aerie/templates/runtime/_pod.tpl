{{/*
A runtime's pod: fetch target and draft, check them against each other, the profile against the machine, and serve.
Of (root, pool), the same for one node and for every node of several.
*/}}
{{- define "aerie.runtime.pod" -}}
{{- $root := .root }}
{{- $pool := .pool }}
{{- $runtime := .pool.runtime }}
{{- $image := include "aerie.image" (dict "image" $runtime.image "registry" $root.Values.imageRegistry "tag" (printf "%s-%s" $root.Chart.AppVersion (ternary "gpu" "cpu" $pool.isCuda))) }}
{{- $sources := include "aerie.runtime.sources" . | fromJsonArray }}
metadata:
  labels:
    {{- include "aerie.podLabels" (dict "labels" $pool.labels "more" $runtime.podLabels) | nindent 4 }}
  annotations:
    # SGLang reads its settings once: another profile is another pod
    checksum/profile: {{ include "aerie.pool.profile" . | sha256sum }}
    {{- with $runtime.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "aerie.fullname" $root }}-runtime
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $runtime.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  securityContext: {{- include "aerie.podSecurity" $runtime.podSecurityContext | nindent 4 }}
  # notice, drain, 15 s to spare
  terminationGracePeriodSeconds: {{ add $runtime.drain.noticeSeconds $runtime.drain.timeoutSeconds 15 }}
  {{- with include "aerie.placement" (dict "settings" (include "aerie.runtime.settings" . | fromJson) "selector" (include "aerie.selectorLabels" $pool.labels)) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  initContainers:
    {{- range $sources }}
    {{- if has .source.type (list "hub" "s3") }}
    {{- include "aerie.runtime.fetch" (dict "root" $root "role" .role "source" .source "image" $image "pullPolicy" $runtime.image.pullPolicy) | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- if and (eq (len $sources) 2) (not (has "builtin" (list (index $sources 0).source.type (index $sources 1).source.type))) (has $pool.speculation.algorithm (list "EAGLE3" "EAGLE" "NEXTN" "STANDALONE")) }}
    - name: check-draft
      image: {{ $image }}
      imagePullPolicy: {{ $runtime.image.pullPolicy }}
      command: [aerie-draft, check]
      args:
        - --threads=1
        - --algorithm={{ $pool.speculation.algorithm }}
        {{- range $pool.draft.allow }}
        - --allow={{ . }}
        {{- end }}
        {{- range $sources }}
        - {{ include "aerie.source.place" . | quote }}
        {{- end }}
      {{- include "aerie.runtime.container" (merge (dict "noGpu" true) .) | trim | nindent 6 }}
      resources: {{- toYaml $root.Values.fetch.resources | nindent 8 }}
    {{- end }}
    - name: preflight
      image: {{ $image }}
      imagePullPolicy: {{ $runtime.image.pullPolicy }}
      command: [aerie, check]
      args: [--profile=/etc/aerie/runtime/profile.yaml]
      {{- include "aerie.runtime.container" . | trim | nindent 6 }}
      # the runtime's: what is checked are its GPUs and its memory
      resources: {{- include "aerie.runtime.resources" . | nindent 8 }}
  containers:
    - name: runtime
      image: {{ $image }}
      imagePullPolicy: {{ $runtime.image.pullPolicy }}
      command: [aerie, runtime]
      args:
        - --profile=/etc/aerie/runtime/profile.yaml
        {{- if gt $pool.nodes 1 }}
        - --node-rank=$(LWS_WORKER_INDEX)
        - --dist-init-addr=$(LWS_LEADER_ADDRESS):{{ include "aerie.distributed.port" $root }}
        {{- end }}
      {{- include "aerie.runtime.container" . | trim | nindent 6 }}
      ports:
        - {name: http, containerPort: {{ include "aerie.runtime.port" $root }}}
      {{- include "aerie.runtime.probes" . | trim | nindent 6 }}
      lifecycle:
        # DNS and the gateway forget the pod, which serves on; then SIGTERM, and SGLang finishes what it has. Of a
        # pool's last pod the gateway keeps the address, until /ready answers 503.
        preStop: {sleep: {seconds: {{ $runtime.drain.noticeSeconds }}}}
      resources: {{- include "aerie.runtime.resources" . | nindent 8 }}
  volumes:
    {{- include "aerie.runtime.volumes" . | trim | nindent 4 }}
{{- end }}

{{/* Target and draft, as JSON: [{role, source}]. */}}
{{- define "aerie.runtime.sources" -}}
{{- $sources := list (dict "role" "target" "source" .root.Values.model.source) }}
{{- if eq .pool.kind "speculative" }}
{{- with .pool.draft.source }}{{ $sources = append $sources (dict "role" "draft" "source" .) }}{{ end }}
{{- end }}
{{- toJson $sources }}
{{- end }}

{{/* `runtime` with the GPU product made an affinity; nodes of one replica are not spread. */}}
{{- define "aerie.runtime.settings" -}}
{{- $settings := deepCopy .pool.runtime }}
{{- if gt .pool.nodes 1 }}{{ $_ := unset $settings "topologyKeys" }}{{ end }}
{{- with .pool.runtime.gpuProducts }}
{{- $term := dict "matchExpressions" (list (dict "key" "nvidia.com/gpu.product" "operator" "In" "values" .)) }}
{{- $required := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list $term)) }}
{{- $_ := set $settings "affinity" (merge (dict "nodeAffinity" $required) ($settings.affinity | default dict)) }}
{{- end }}
{{- toJson $settings }}
{{- end }}

{{- define "aerie.runtime.resources" -}}
{{- $resources := deepCopy .pool.runtime.resources }}
{{- if .pool.isCuda }}
{{- $_ := set $resources "limits" (merge (dict .pool.runtime.gpuResource .pool.gpus) ($resources.limits | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Environment, security and mounts of the containers that run Aerie's and SGLang's code. */}}
{{- define "aerie.runtime.container" -}}
env:
  # the root is read-only and the user has no entry in passwd: what is compiled goes to the scratch volume
  - {name: HOME, value: /scratch}
  - {name: USER, value: aerie}
  - {name: XDG_CACHE_HOME, value: /scratch/cache}
  - {name: TRITON_CACHE_DIR, value: /scratch/triton}
  - {name: TORCHINDUCTOR_CACHE_DIR, value: /scratch/inductor}
  - {name: FLASHINFER_WORKSPACE_BASE, value: /scratch}
  # /health would generate a token and wait for it
  - {name: SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION, value: "0"}
  {{- with .pool.runtime.extraEnv }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- if .noGpu }}
  {{- include "aerie.runtime.noGpu" . | trim | nindent 2 }}
  {{- end }}
securityContext: {{- include "aerie.containerSecurity" .root | nindent 2 }}
volumeMounts:
  - {name: profile, mountPath: /etc/aerie/runtime, readOnly: true}
  - {name: scratch, mountPath: /scratch}
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
  {{- range include "aerie.runtime.sources" . | fromJsonArray }}
  {{- if has .source.type (list "pvc" "image") }}
  - {name: {{ .role }}, mountPath: /models/{{ .role }}, readOnly: true}
  {{- end }}
  {{- end }}
  {{- if include "aerie.runtime.fetches" . }}
  - {name: models, mountPath: /models/cache, readOnly: true}
  {{- end }}
  {{- with .pool.runtime.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{/* The image asks NVIDIA's runtime for all GPUs, and gets them where a pod has requested none. */}}
{{- define "aerie.runtime.noGpu" -}}
- {name: NVIDIA_VISIBLE_DEVICES, value: void}
{{- end }}

{{/* Not empty where something is fetched. */}}
{{- define "aerie.runtime.fetches" -}}
{{- range include "aerie.runtime.sources" . | fromJsonArray }}{{ if has .source.type (list "hub" "s3") }}yes{{ end }}{{ end }}
{{- end }}

{{/* Of (root, role, source, image, pullPolicy). */}}
{{- define "aerie.runtime.fetch" -}}
{{- $s3 := .root.Values.fetch.s3 }}
- name: fetch-{{ .role }}
  {{- if eq .source.type "hub" }}
  image: {{ .image }}
  imagePullPolicy: {{ .pullPolicy }}
  {{- else }}
  image: {{ include "aerie.image" (dict "image" $s3.image) }}
  imagePullPolicy: {{ $s3.image.pullPolicy }}
  {{- end }}
  command: [sh, /scripts/fetch-{{ .source.type }}.sh]
  env:
    - {name: HOME, value: /tmp}
    - {name: SOURCE, value: {{ .source.location | quote }}}
    - {name: DEST, value: {{ include "aerie.source.place" . | quote }}}
    - name: SUMS
      value: {{ include "aerie.source.sums" .source | quote }}
    {{- if eq .source.type "hub" }}
    {{- include "aerie.runtime.noGpu" . | trim | nindent 4 }}
    - {name: REVISION, value: {{ .source.revision | default "" | quote }}}
    - {name: EXCLUDE, value: {{ join " " .root.Values.fetch.exclude | quote }}}
    {{- if .source.secretName }}
    - {name: HF_TOKEN_PATH, value: /secrets/token}
    {{- end }}
    {{- else }}
    - {name: RCLONE_CONFIG_S3_TYPE, value: s3}
    - {name: RCLONE_CONFIG_S3_PROVIDER, value: {{ $s3.provider | quote }}}
    - {name: RCLONE_CONFIG_S3_ENV_AUTH, value: "true"}
    {{- with $s3.endpoint }}
    - {name: RCLONE_CONFIG_S3_ENDPOINT, value: {{ . | quote }}}
    {{- end }}
    {{- with $s3.region }}
    - {name: RCLONE_CONFIG_S3_REGION, value: {{ . | quote }}}
    {{- end }}
    {{- if .source.secretName }}
    - {name: AWS_SHARED_CREDENTIALS_FILE, value: /secrets/credentials}
    {{- end }}
    {{- end }}
    {{- with .root.Values.fetch.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
  resources: {{- toYaml .root.Values.fetch.resources | nindent 4 }}
  securityContext: {{- include "aerie.containerSecurity" .root | nindent 4 }}
  volumeMounts:
    - {name: scripts, mountPath: /scripts, readOnly: true}
    - {name: models, mountPath: /models/cache}
    - {name: tmp, mountPath: /tmp}
    {{- if .source.secretName }}
    - {name: {{ .role }}-secret, mountPath: /secrets, readOnly: true}
    {{- end }}
    {{- with .root.Values.fetch.extraVolumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}

{{/* As sha256sum reads them. */}}
{{- define "aerie.source.sums" -}}
{{- range $file, $sum := .sha256 }}{{ printf "%s  %s\n" $sum $file }}{{ end }}
{{- end }}

{{/*
A start may take its budget, after which the supervisor ends with SGLang's last lines; the kubelet waits a little longer.
None of these generates a token. Liveness is a connection only: a scheduler that hangs ends SGLang by its own watchdog.
*/}}
{{- define "aerie.runtime.probes" -}}
{{- $seconds := add .pool.startupSeconds .pool.runtime.startup.prepareSeconds 30 }}
startupProbe:
  {{- if gt .pool.nodes 1 }}
  # of several nodes only the first has /ready; each listens once its part is loaded
  tcpSocket: {port: http}
  {{- else }}
  httpGet: {path: /ready, port: http}
  {{- end }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ div (add $seconds 4) 5 }}
livenessProbe:
  tcpSocket: {port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  {{- if gt .pool.nodes 1 }}
  httpGet: {path: /health, port: http}
  {{- else }}
  httpGet: {path: /ready, port: http}
  {{- end }}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{- define "aerie.runtime.volumes" -}}
{{- $root := .root }}
- name: profile
  configMap: {name: {{ .pool.fullname }}}
- name: scratch
  emptyDir: {sizeLimit: {{ .pool.runtime.scratchSize }}}
- name: tmp
  emptyDir: {sizeLimit: 10Gi}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .pool.runtime.shmSize }}}
{{- range include "aerie.runtime.sources" . | fromJsonArray }}
{{- if eq .source.type "pvc" }}
- name: {{ .role }}
  persistentVolumeClaim: {claimName: {{ .source.location }}, readOnly: true}
{{- else if eq .source.type "image" }}
- name: {{ .role }}
  image: {reference: {{ .source.location }}, pullPolicy: IfNotPresent}
{{- end }}
{{- if .source.secretName }}
- name: {{ .role }}-secret
  secret: {secretName: {{ .source.secretName }}}
{{- end }}
{{- end }}
{{- if include "aerie.runtime.fetches" . }}
- name: scripts
  configMap: {name: {{ include "aerie.fullname" $root }}-scripts}
- name: models
  {{- with $root.Values.cache }}
  {{- if eq .type "pvc" }}
  persistentVolumeClaim: {claimName: {{ .claimName | default (printf "%s-models" (include "aerie.fullname" $root)) }}}
  {{- else if eq .type "hostPath" }}
  hostPath: {path: {{ .hostPath }}, type: Directory}
  {{- else }}
  emptyDir: {sizeLimit: {{ .size }}}
  {{- end }}
  {{- end }}
{{- with $root.Values.fetch.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- with .pool.runtime.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
