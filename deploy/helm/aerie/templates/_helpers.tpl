{{/*
Names of things: what objects are called, their labels, images, security. Pools are in _pools.tpl, rules in _rules.tpl.
*/}}

{{- define "aerie.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 32 | trimSuffix "-" -}}
{{- end }}

{{/* At most 32 characters: a pool's name of up to 24 comes after it, then a LeaderWorkerSet's numbers, and 63 are allowed. */}}
{{- define "aerie.fullname" -}}
{{- $name := include "aerie.name" . -}}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $whole | trunc 32 | trimSuffix "-" -}}
{{- end }}

{{- define "aerie.gateway.fullname" -}}
{{- include "aerie.fullname" . }}-gateway
{{- end }}

{{/* Never change for the life of a release: selectors are immutable. Of (root, component). */}}
{{- define "aerie.selectorLabels" -}}
app.kubernetes.io/name: {{ include "aerie.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
aerie.dev/pool: {{ . }}
{{- end }}
{{- end }}

{{/* Of (root, component, optionally pool). */}}
{{- define "aerie.labels" -}}
{{ include "aerie.selectorLabels" . }}
app.kubernetes.io/part-of: aerie
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Without versions: a pod need not restart because the chart has another. Of (labels, more). */}}
{{- define "aerie.podLabels" -}}
{{ include "aerie.selectorLabels" .labels }}
app.kubernetes.io/part-of: aerie
{{- with .labels.root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .more }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A reference, by digest where there is one. Of (image, registry, tag): the tag is used where the image names none. */}}
{{- define "aerie.image" -}}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository -}}
{{- with .image.tag | default .tag }}:{{ . }}{{ end -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "aerie.gateway.image" -}}
{{- include "aerie.image" (dict "image" .Values.gateway.image "registry" .Values.imageRegistry "tag" (printf "%s-gateway" .Chart.AppVersion)) -}}
{{- end }}

{{/* A value as it was written: a values file's numbers are floats, and toString makes 8.388608e+06 of 8388608. */}}
{{- define "aerie.text" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* Of a podSecurityContext: what it names is in place of ours, and null leaves a field out. */}}
{{- define "aerie.podSecurity" -}}
{{- $context := dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- range $field, $value := . }}
{{- if kindIs "invalid" $value }}{{ $_ := unset $context $field }}{{ else }}{{ $_ := set $context $field $value }}{{ end }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/*
Under autoscaling a workload keeps the replicas that it has: left out, the upgrade that turns autoscaling on would make
them 1. Where no cluster can be asked (`helm template`) they are left out. Of (root, apiVersion, kind, name, replicas,
autoscaling).
*/}}
{{- define "aerie.replicas" -}}
{{- if not .autoscaling.enabled -}}
replicas: {{ .replicas }}
{{- else -}}
{{- with dig "spec" "replicas" 0 (lookup .apiVersion .kind .root.Release.Namespace .name) -}}
replicas: {{ max (int .) (int $.autoscaling.minReplicas) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "aerie.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a pod may and wants to run. Of (settings, selector): settings are `gateway` or a pool's `runtime`. */}}
{{- define "aerie.placement" -}}
{{- $selector := .selector }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where the gateway listens, where runtimes do, and where the nodes of one replica meet. */}}
{{- define "aerie.gateway.port" -}}8000{{- end }}
{{- define "aerie.runtime.port" -}}30000{{- end }}
{{- define "aerie.distributed.port" -}}20000{{- end }}
