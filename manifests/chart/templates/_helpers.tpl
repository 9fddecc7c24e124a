{{/* The image of all parts. */}}
{{- define "ambit.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Labels of every object; takes (list . NAME). */}}
{{- define "ambit.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: ambit
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- end -}}

{{/* Labels of pods, without who manages them: an installation goes from `ambit` to Helm without a restart. Takes (list . NAME). */}}
{{- define "ambit.pod-labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: ambit
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- end -}}

{{/* What pods are found by; it never changes. Takes the name. */}}
{{- define "ambit.selector" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: ambit
{{- end -}}

{{/* The token by which a proxy is known to the authority, and the roots by which it knows the authority. */}}
{{- define "ambit.credentials" -}}
- name: token
  projected:
    sources:
      - serviceAccountToken: {audience: istio-ca, expirationSeconds: 43200, path: istio-token}
- name: roots
  configMap: {name: istio-ca-root-cert}
{{- end -}}

{{/* For containers that need nothing of the node. */}}
{{- define "ambit.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 15012
runAsGroup: 15012
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The namespaces whose objects are validated. */}}
{{- define "ambit.validated" -}}
matchExpressions:
  # What the cluster itself runs on.
  - {key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system]}
  # Where somebody wants none of it.
  - {key: ambit.dev/validation, operator: NotIn, values: [disabled]}
{{- end -}}

{{/* For objects that the label puts into the mesh, and did not before. */}}
{{- define "ambit.newly-enrolled" -}}
- name: newly-enrolled
  expression: >-
    object.metadata.?labels[?'istio.io/dataplane-mode'].orValue('') == 'ambient' &&
    (oldObject == null || oldObject.metadata.?labels[?'istio.io/dataplane-mode'].orValue('') != 'ambient')
{{- end -}}
