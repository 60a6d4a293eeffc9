// A plugin of TypeDoc: shows the types of `@throws {…}`, which TypeDoc leaves out.
export function load(app) {
  app.converter.on('resolveBegin', ({ project }) => {
    for (const { comment } of Object.values(project.reflections))
      for (const tag of comment?.blockTags ?? [])
        if (tag.tag === '@throws' && tag.typeAnnotation)
          tag.content.unshift(
            { kind: 'code', text: `\`${tag.typeAnnotation.replace(/^\{|\}$/g, '')}\`` },
            { kind: 'text', text: ' ' },
          )
  })
}
